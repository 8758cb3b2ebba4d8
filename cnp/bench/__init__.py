"""How good the code is that comes out of the portable operations, and how fast it is made: `cnp bench`."""
