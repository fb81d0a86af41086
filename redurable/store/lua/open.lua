-- open: any -> any
-- Makes a stream and its group, from the first entry on, so that it can be read.
-- by     worker
-- keys   stream streams
-- reply  OK
redis.pcall('XGROUP', 'CREATE', stream, 'rd', '0', 'MKSTREAM')
redis.call('SADD', streams, stream)
return 'OK'
