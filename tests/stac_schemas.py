"""Whether a document is valid STAC, by published schemas and without a network.

STAC 1.1.0 comes with pystac; of the extensions see ``tests/schemas/README.md``.
"""

import json
from pathlib import Path

from jsonschema import Draft7Validator
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource

FOLDER = Path(__file__).parent / "schemas"
EXTENSIONS = "https://stac-extensions.github.io"
CORE = {
    "Feature": "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json",
    "Collection": "https://schemas.stacspec.org/v1.1.0/collection-spec/json-schema/collection.json",
    "Catalog": "https://schemas.stacspec.org/v1.1.0/catalog-spec/json-schema/catalog.json",
}
MLM_1_4, MLM_1_5 = (f"{EXTENSIONS}/mlm/v1.{minor}.0/schema.json" for minor in (4, 5))


def fields(prefix, known):
    """Fields of a prefix that may stand in properties, assets and bands; others of the prefix may not."""
    return {
        "type": "object",
        "properties": {f"{prefix}:{name}": schema for name, schema in known.items()},
        "patternProperties": {f"^(?!{prefix}:)": True},
        "additionalProperties": False,
    }


NUMBER, TEXT = {"type": "number"}, {"type": "string", "minLength": 1}

RASTER_FIELDS = fields(
    "raster",
    {
        "sampling": {"enum": ["area", "point"]},
        "bits_per_sample": {"type": "integer"},
        "spatial_resolution": NUMBER,
        "scale": NUMBER,
        "offset": NUMBER,
        "histogram": {"type": "object"},
    },
)
PROCESSING_FIELDS = fields(
    "processing",
    {
        "expression": {"type": "object", "required": ["format", "expression"]},
        "lineage": TEXT,
        "level": TEXT,
        "facility": TEXT,
        "datetime": {"type": "string", "format": "date-time", "pattern": r"(\+00:00|Z)$"},
        "version": TEXT,
        "software": {"type": "object", "additionalProperties": {"type": "string"}},
    },
)

RULES = {
    # https://github.com/stac-extensions/raster/tree/v2.0.0: fields of assets and bands alone.
    f"{EXTENSIONS}/raster/v2.0.0/schema.json": {
        "properties": {
            "assets": {
                "additionalProperties": {
                    **RASTER_FIELDS,
                    "properties": {
                        **RASTER_FIELDS["properties"],
                        "raster:bands": False,
                        "bands": {"type": "array", "items": RASTER_FIELDS},
                    },
                }
            }
        }
    },
    # https://github.com/stac-extensions/processing/tree/v1.2.0
    f"{EXTENSIONS}/processing/v1.2.0/schema.json": {
        "properties": {"properties": PROCESSING_FIELDS, "assets": {"additionalProperties": PROCESSING_FIELDS}}
    },
    # https://github.com/stac-extensions/mlm/tree/v1.5.0: what it asks for beyond v1.4.0 of what we write.
    MLM_1_5: {
        "properties": {
            "properties": {
                "properties": {
                    "mlm:input": {
                        "items": {
                            "if": {"properties": {"bands": {"minItems": 1}}},
                            "then": {
                                "properties": {
                                    "input": {"properties": {"dim_order": {"contains": {"const": "bands"}}}}
                                }
                            },
                        }
                    },
                    "mlm:output": {
                        "items": {
                            "properties": {
                                "result": {
                                    "properties": {"dim_order": {"not": {"contains": {"const": "bands"}}}}
                                }
                            }
                        }
                    },
                }
            }
        }
    },
    # https://github.com/stac-extensions/version/tree/v1.2.0
    f"{EXTENSIONS}/version/v1.2.0/schema.json": {
        "properties": {
            "properties": {
                "properties": {
                    "version": {"type": "string"},
                    "deprecated": {"type": "boolean"},
                    "experimental": {"type": "boolean"},
                }
            }
        }
    },
    # https://github.com/stac-extensions/eo/tree/v2.0.0, as far as models state it.
    f"{EXTENSIONS}/eo/v2.0.0/schema.json": {},
}


def _published():
    """Schemas by URL."""
    schemas = dict(get_local_schema_cache())
    for path in sorted(FOLDER.glob("*.json")):
        name, version = path.stem.rsplit("-", 1)
        schemas[f"{EXTENSIONS}/{name}/{version}/schema.json"] = json.loads(path.read_text("utf-8"))
    # MLM takes its classes from a version that is not at hand; v2.0.0 asks for more of them.
    schemas[f"{EXTENSIONS}/classification/v1.1.0/schema.json"] = schemas[
        f"{EXTENSIONS}/classification/v2.0.0/schema.json"
    ]
    return schemas


SCHEMAS = _published()
REGISTRY = Registry().with_resources((url, Resource.from_contents(schema)) for url, schema in SCHEMAS.items())


def stac_errors(document):
    """What the schemas of STAC and of every extension that the document names have against it."""
    checks = [(document, SCHEMAS[CORE[document["type"]]])]
    for url in document.get("stac_extensions", []):
        if url == MLM_1_5:
            urls = [MLM_1_4 if url == MLM_1_5 else url for url in document["stac_extensions"]]
            checks.append(({**document, "stac_extensions": urls}, SCHEMAS[MLM_1_4]))
        checks.append((document, RULES[url] if url in RULES else SCHEMAS[url]))
    return [
        f"{error.json_path}: {error.message[:200]}"
        for values, schema in checks
        for error in Draft7Validator(schema, registry=REGISTRY).iter_errors(json.loads(json.dumps(values)))
    ]
