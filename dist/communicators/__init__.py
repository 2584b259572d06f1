"""One interface, several wires: alone, threads, MPI, ZeroMQ."""
