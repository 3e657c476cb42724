"""The embedded time series: what finished requests add up to, by the minute, the hour and the day."""
