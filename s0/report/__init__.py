"""Tables, figures and pages made from records, and from nothing else."""

from s0.report.aggregate import Row, aggregate, load_records
from s0.report.summary import breakdown_text, summary_table, write_summary

__all__ = ["Row", "aggregate", "breakdown_text", "load_records", "summary_table", "write_summary"]
