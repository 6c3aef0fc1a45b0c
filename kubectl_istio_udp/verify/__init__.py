"""Testing that datagrams arrive, hop by hop: probes, their verdicts, and the cause of a failure."""
