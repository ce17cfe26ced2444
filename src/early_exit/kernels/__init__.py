"""The arithmetic of decoding behind one interface: `interface.py` says what there is, one file each
implements it."""
