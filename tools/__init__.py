"""What measures, breaks and builds the service; and the harness that tests share with it."""
