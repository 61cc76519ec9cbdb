"""Names shared by every package: enumerations, plain parameter objects, progress bars."""
