"""Every table and figure of the paper, built from records: published and reproduced side by side.

`items.ITEMS` lists what is built, `context.Context` answers questions about records and published figures, `build.build`
writes what is stale. A cell without a record says "not run"; no number is typed in here.
"""
