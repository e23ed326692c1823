"""Ray Serve with a deployment that answers at once, on the port that is given: `GET /`."""

import signal
import sys

import ray
from ray import serve


@serve.deployment(max_ongoing_requests=100)
class Site:
    async def __call__(self, request: object) -> str:
        return "served"


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Site.bind())  # type: ignore[attr-defined]  # made by the decorator
    try:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        serve.shutdown()
        ray.shutdown()
