# workload
