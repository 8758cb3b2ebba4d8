"""How good the code is that comes out of the portable operations: `cnp bench quality`."""
