"""What importing the package costs; NumPy's own import is part of it and stands beside it."""


def timeraw_import_slidedot():
    return "import slidedot"


def timeraw_import_numpy():
    return "import numpy"
