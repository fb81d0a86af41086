-- declare: IN_PROGRESS -> IN_PROGRESS
-- Says that the attempt waits for what comes under `key`, of which `about` is known. The first `seen` entries did not
-- bring it: what they held was no good, or was set aside. With `since` it is listed for people; it, or a child, which
-- has an id for its key, makes the intent owe something when it ends.
-- by     owner
-- keys   head arrivals forms asked
-- args   id fence key seen about form schema since
-- reply  OK | FENCED | WRONG_STATE | NOT_FOUND
local h = redis.call('HMGET', head, 'status', 'fence')
local no = refused(h[1], h[2], fence)
if no then return no end
local old = redis.call('HGET', arrivals, key)
local seq = old and old:match('^=(%d+)')
if seq and tonumber(seq) > tonumber(seen) then return 'OK' end
local child = not key:find('#', 1, true)
redis.call('HSET', arrivals, key, '?' .. about)
if not child then redis.call('HDEL', arrivals, '#') end -- the handler has come to wait: more may come unasked
if form ~= '' then redis.call('HSETNX', forms, form, schema) end
if since ~= '' then redis.call('ZADD', asked, 'NX', since, id .. '/' .. key) end
if child or since ~= '' then redis.call('HSET', head, 'owes', 1) end
return 'OK'
