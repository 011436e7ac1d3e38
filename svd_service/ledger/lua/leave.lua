-- A worker process is about to go. ARGV: its name.
leave_work(ARGV[1])
