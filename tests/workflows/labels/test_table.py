"""Tables of images and labels, well made and malformed. Oracle: pandas, and what was written."""

import pandas as pd
import pytest

from landuse.errors import UsageError
from landuse.workflows.labels.table import read_table


def test_a_table_is_read_as_pandas_reads_it(data_dir):
    path = data_dir / "multilabel" / "ucm" / "val.csv"
    table = read_table(path)
    expected = pd.read_csv(path)
    assert table.labels == tuple(expected.columns[1:])
    assert list(table.names) == expected["image"].tolist()
    assert (table.targets == expected.iloc[:, 1:].to_numpy()).all()


def test_marks_of_spreadsheets_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffimage,"bare-soil", sea\r\n"a, b.jpg",1, 0\r\n\r\nsub/c.png,0,1\r\n'.encode())
    table = read_table(path)
    assert table.labels == ("bare-soil", "sea")
    assert table.names == ("a, b.jpg", "sub/c.png")
    assert table.targets.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "does not name an image's column"),
        ("image\na.jpg\n", "names 0 labels"),
        ("image,sea,sea\na.jpg,0,1\n", "names sea twice"),
        ("image,<b>\na.jpg,0\n", "is no name"),
        ("image,sea\n", "names no image"),
        ("image,sea\na.jpg\n", "line 2 has 1 fields; the first line names 2 columns"),
        ("image,sea\na.jpg,1\nb.jpg,1,0\n", "line 3 has 3 fields"),
        ("image,sea\na.jpg,2\n", "line 2: sea is '2'; a label is 0 or 1"),
        ("image,sea\na.jpg,\n", "line 2: sea is ''"),
        ("image,sea\na.jpg,0.7\n", "line 2: sea is '0.7'"),
        ("image,sea\na.jpg,1\na.jpg,0\n", "names the image 'a.jpg' twice"),
        ("image,sea\n../../etc/passwd,1\n", "no path of an image below --images"),
        ("image,sea\n/etc/passwd,1\n", "no path of an image below --images"),
        ("image,sea\n,1\n", "no path of an image below --images"),
        ('image,sea\n"a.jpg,1\n', "is no CSV"),
    ],
)
def test_a_malformed_table_has_one_clear_error(tmp_path, text, told):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_table(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_what_is_no_text_or_not_there_is_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"image,sea\n\xff\xfe,1\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(tmp_path / "missing.csv")


def test_columns_are_brought_to_the_order_of_the_models_labels(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,sea,sand\na.jpg,1,0\n")
    table = read_table(path)
    assert table.ordered(("sand", "sea"), "m").targets.tolist() == [[0, 1]]
    with pytest.raises(UsageError, match="has the labels sea, which model m does not know"):
        table.ordered(("sand",), "m")
    with pytest.raises(UsageError, match="lacks the labels ship"):
        table.ordered(("sand", "sea", "ship"), "m")
