"""How what ships is made: scripts that are not part of the wheel."""
