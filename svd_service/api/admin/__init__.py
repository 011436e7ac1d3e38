"""The operators' dialect, `/admin/…`: every route requires an API key with the scope `admin`."""
