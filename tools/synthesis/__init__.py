"""Where lesions go, which shape they take, and how they are put into a scan."""
