"""Run shards in this process or on Dask, read images ahead, distribute GPUs."""
