"""What does it cost? Figures that depend on the machine, so they are printed, not asserted."""
