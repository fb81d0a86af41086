-- checkpoint: IN_PROGRESS -> IN_PROGRESS
-- Keeps the cursor of an unfinished long step. A cursor that moved is progress: losses start again from 0.
-- by     owner
-- keys   head cursors
-- args   fence name value
-- reply  OK | FENCED | WRONG_STATE | NOT_FOUND
local h = redis.call('HMGET', head, 'status', 'fence', 'losses')
local no = refused(h[1], h[2], fence)
if no then return no end
if redis.call('HGET', cursors, name) == value then return 'OK' end
redis.call('HSET', cursors, name, value)
redis.call('HSET', head, 'cursors', 1)
if h[3] then redis.call('HDEL', head, 'losses', 'lost') end
return 'OK'
