"""What people configure: ``zeo.conf``, addresses, TLS, storages, the process id file."""
