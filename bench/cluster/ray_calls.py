"""An actor of Ray on another node of it, asked as `far.erl` is. Two nodes run on this machine, and nothing leaves it."""
import os
import sys
import time

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")

import ray
from ray.cluster_utils import Cluster

output = os.fdopen(os.dup(1), "w", buffering=1)
# What Ray has to say is not an answer.
os.dup2(2, 1)

cluster = Cluster()
cluster.add_node(num_cpus=1, resources={"near": 1}, include_dashboard=False)
cluster.add_node(num_cpus=1, resources={"far": 1}, include_dashboard=False)
ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)


@ray.remote(num_cpus=0, resources={"far": 1}, max_concurrency=1)
class Far:
    def sized(self, request, length):
        return bytes(length)


far = Far.remote()
REQUEST = bytes(64)


def ping(length):
    start = time.perf_counter_ns()
    answer = ray.get(far.sized.remote(REQUEST, length))
    assert len(answer) == length
    return time.perf_counter_ns() - start


def many(each, in_flight):
    start = time.perf_counter_ns()
    waiting = [far.sized.remote(REQUEST, 64) for _ in range(in_flight)]
    for _ in range(each * in_flight - in_flight):
        _, waiting = ray.wait(waiting, num_returns=1)
        waiting.append(far.sized.remote(REQUEST, 64))
    ray.get(waiting)
    return time.perf_counter_ns() - start


ping(64)
for line in sys.stdin:
    word, first, second = line.split()
    if word == "ready":
        print(1, file=output)
    elif word == "pings":
        print(*[ping(int(second)) for _ in range(int(first))], file=output)
    elif word == "many":
        print(many(int(first), int(second)), file=output)
ray.shutdown()
cluster.shutdown()
