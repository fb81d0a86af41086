-- watch: any -> any
-- Asks that news of an open intent be published to `channel`. Answers its status.
-- by     client
-- keys   head
-- args   channel
-- reply  status | NOT_FOUND
local status = redis.call('HGET', head, 'status')
if not status then return 'NOT_FOUND' end
if not ended(status) then redis.call('HSET', head, 'watch', channel) end
return status
