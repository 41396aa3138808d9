"""Events made elsewhere: JSON lines, CloudEvents, their timestamps."""
