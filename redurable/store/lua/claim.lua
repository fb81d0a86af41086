-- claim: SUBMITTED -> IN_PROGRESS
-- Takes what `given` names (stream, entry, id: a blocking read delivered them), then up to `count` from the streams
-- in their order, and answers all that the attempts need. Keys of intents are built from `prefix`: their ids are
-- only known here. A worker's numbers rise; sent again with one that was used, it answers what that call took.
-- by     worker
-- keys   workers streams*
-- args   worker number count prefix claimed limits* given*
-- reply  list of (id stream entry fence attempt created started deadline base body entries)
-- flags  allow-oom
local lanes, taken, bytes, us = {}, {}, 0, now_us()
for i, stream in ipairs(streams) do
  local kind, tail = stream:sub(#prefix + 1):match('^(%a):[^:]+:(.+)$')
  lanes[i] = kind .. ':' .. tail
end

local function answer(index, entry, id, fence, h, base)
  local body, entries = false, {}
  if bytes < 4194304 then
    body = redis.call('GET', prefix .. 'p:' .. id)
    bytes = bytes + #(body or '')
    local from, mine = 0, 0
    while tonumber(base) > 0 and mine < 262144 do
      local part = redis.call('LRANGE', prefix .. 'j:' .. id, from, from + 63)
      for _, e in ipairs(part) do if mine < 262144 then entries[#entries + 1], mine = e, mine + #e end end
      if #part < 64 then break end
      from = from + 64
    end
    bytes = bytes + mine
  end
  taken[#taken + 1] = {id, index, entry, fence, h[3], h[6], h[7], h[8] or '', base, body, entries}
end

local function take(index, entry, id)
  local head, journal = prefix .. 'i:' .. id, prefix .. 'j:' .. id
  local h = redis.call('HMGET', head, 'status', 'at', 'attempt', 'fence', 'max', 'created', 'started', 'deadline')
  if h[2] ~= lanes[index] .. '/' .. entry then return drop(streams[index], entry) end
  if h[1] ~= 'SUBMITTED' then return end
  local epoch = math.max(tonumber((h[4] or '0'):match('^%d+')) + 1, us)
  local text = string.format('%.0f', epoch)
  local fence = text .. ':' .. worker .. ':' .. number
  local fresh = not h[3] -- nothing was ever written to its journal
  h[3] = tostring((tonumber(h[3] or nil) or 0) + 1)
  h[7] = h[7] or string.format('%.0f', math.floor(us / 1000))
  local base = 0
  if not fresh then
    -- MessagePack by hand: two short texts behind the worker's ready-made beginning
    base = redis.call('RPUSH', journal,
      claimed .. string.char(160 + #h[3]) .. h[3] .. string.char(160 + #text) .. text)
  end
  redis.call('HSET', head, 'status', 'IN_PROGRESS', 'fence', fence, 'attempt', h[3], 'base', base, 'started', h[7])
  if limits[index] ~= '' and not h[5] then redis.call('HSET', head, 'max', limits[index]) end
  answer(index, entry, id, fence, h, base)
end

if tonumber(redis.call('HGET', workers, worker .. '#') or 0) >= tonumber(number) then
  for i, stream in ipairs(streams) do
    for _, row in ipairs(redis.pcall('XPENDING', stream, 'rd', '-', '+', 1000, worker)) do
      local found = redis.call('XRANGE', stream, row[1], row[1])
      local id = found[1] and found[1][2][2]
      local h = id and redis.call('HMGET', prefix .. 'i:' .. id,
        'status', 'at', 'attempt', 'fence', 'base', 'created', 'started', 'deadline')
      if h and h[1] == 'IN_PROGRESS' and h[4]:match(':(.*)$') == worker .. ':' .. number then
        answer(i, row[1], id, h[4], h, h[5])
      end
    end
  end
  return taken
end
redis.call('HSET', workers, worker .. '#', number)
for i = 1, #given, 3 do pcall(take, tonumber(given[i]), given[i + 1], given[i + 2]) end
for i, stream in ipairs(streams) do
  local left = tonumber(count) - #taken
  if left <= 0 then break end
  local read = redis.pcall('XREADGROUP', 'GROUP', 'rd', worker, 'COUNT', left, 'STREAMS', stream, '>')
  if read and not read.err then
    for _, e in ipairs(read[1][2]) do pcall(take, i, e[1], e[2][2]) end
  end
end
return taken
