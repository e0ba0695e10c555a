"""Encode networks as bytes and decode them, with NumPy alone; `distill.codecs.sections` has the contract of a codec."""
