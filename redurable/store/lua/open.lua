-- open: any -> any
-- Makes a stream and its group, from the first entry on, so that it can be read; also on a full server, which only
-- workers can drain.
-- by     worker
-- keys   stream streams
-- reply  OK
-- flags  allow-oom
redis.pcall('XGROUP', 'CREATE', stream, 'rd', '0', 'MKSTREAM')
redis.call('SADD', streams, stream)
return 'OK'
