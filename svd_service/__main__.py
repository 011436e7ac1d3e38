"""`python -m svd_service` is `svd-service`, also where the latter is not on the PATH."""

from svd_service.cli.main import main

main()
