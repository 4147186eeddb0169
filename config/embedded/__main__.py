"""`python -m config.embedded status|stop`: see or end what runs for this checkout."""

import json
import os
import signal
import sys

from config.embedded import find_data_dir, read_status
from config.embedded.catalogue import CODE_ROOT

if __name__ == "__main__":
    status = read_status(find_data_dir(CODE_ROOT))
    match sys.argv[1:]:
        case ["status"]:
            print(json.dumps(status, indent=2))
        case ["stop"]:
            if status["running"]:
                os.kill(status["guardian_pid"], signal.SIGTERM)
        case _:
            sys.exit(__doc__)
