"""What a run of a simulation was: its rows on disk, its report, and several runs beside each other."""
