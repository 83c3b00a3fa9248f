"""What pymicro costs against bare `grpc.aio`, measured in one run: `python -m benchmarks`."""

import os

# grpc-core reads it once, when it is imported: else it tells of each GOAWAY at a server's end.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
