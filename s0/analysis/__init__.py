"""What happens inside, and across cells: divergence, persistence, probes, gates, aggregations over records.

`divergence`, `cells` and `results` need records alone; `gates`, `persistence`, `probe` and `alpha` look into a loaded
model and are imported by name, so that reading records does not load torch.
"""
