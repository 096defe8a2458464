"""Methods, one file each: its name is what ``acquire.solve.how`` says, its ``solve`` does it."""
