"""The parts of int8_speed.py."""
