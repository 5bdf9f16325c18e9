"""Schemes that hold embedding tables in fewer bytes, one file each."""
