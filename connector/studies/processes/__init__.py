"""What processes of the program take: measured from outside."""
