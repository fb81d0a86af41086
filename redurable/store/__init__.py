"""The only package that talks to Redis: connections, multiplexer, scripts, keys, transitions, inspection."""
