-- plan: any -> any
-- Writes a schedule as `fields` say, if it is still at the revision `expected` ('' = there is none); no fields remove
-- it. By the revision that it has already, its timer alone is put right.
-- by     client
-- keys   schedule schedules timers
-- args   name member expected revision fields*
-- reply  OK | AGAIN
-- uses   rearm
local held = redis.call('HGET', schedule, 'revision') or ''
if held ~= revision then
  if held ~= expected then return 'AGAIN' end
  if #fields == 0 then
    redis.call('DEL', schedule)
    redis.call('SREM', schedules, name)
  else
    redis.call('SADD', schedules, name)
    redis.call('HSET', schedule, 'revision', revision, unpack(fields))
  end
end
rearm(schedule, timers, member)
return 'OK'
