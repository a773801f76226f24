"""The figures of the pages, one module a page: named functions that draw what a page measured, and judge nothing."""
