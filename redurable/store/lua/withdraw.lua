-- withdraw: IN_PROGRESS -> IN_PROGRESS
-- The handler does not want what would come under `key` any more: it is refused from now on.
-- by     owner
-- keys   head arrivals asked
-- args   id fence key
-- reply  OK | FENCED | WRONG_STATE | NOT_FOUND
local h = redis.call('HMGET', head, 'status', 'fence')
local no = refused(h[1], h[2], fence)
if no then return no end
local old = redis.call('HGET', arrivals, key)
if old and old:sub(1, 1) == '=' then return 'OK' end
redis.call('HSET', arrivals, key, '-')
redis.call('ZREM', asked, id .. '/' .. key)
return 'OK'
