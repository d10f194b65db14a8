"""``python -m landuse``: what ``torchrun -m landuse train ...`` starts."""

from landuse.cli import app

if __name__ == "__main__":
    app()
