"""What the fleet decides: events in, effects out. No I/O and no clock in this room."""
