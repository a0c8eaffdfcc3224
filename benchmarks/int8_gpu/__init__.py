"""What int8_speed.py measures, part by part."""
