-- What the blocking read that was sent right before delivered: own entries behind `marks`, one a stream.
local function delivered(worker, streams, marks, count)
  local words, places, given = {'XREADGROUP', 'GROUP', 'rd', worker, 'COUNT', count, 'STREAMS'}, {}, {}
  for i, stream in ipairs(streams) do
    words[7 + i], words[7 + #streams + i], places[stream] = stream, marks[i], i
  end
  local read = redis.pcall(unpack(words))
  for _, row in ipairs(read.err and {} or read) do
    for _, e in ipairs(row[2]) do
      if e[2] and #given < 3 * count then
        given[#given + 1], given[#given + 2], given[#given + 3] = places[row[1]], e[1], e[2][2]
      end
    end
  end
  return given
end
-- Answers what the claim `number` took, when it was sent before.
local function taken_by(number, worker, prefix, streams, answer)
  for i, stream in ipairs(streams) do
    for _, row in ipairs(redis.pcall('XPENDING', stream, 'rd', '-', '+', 1000, worker)) do
      local found = redis.call('XRANGE', stream, row[1], row[1])
      local id = found[1] and found[1][2][2]
      local h = id and redis.call('HMGET', prefix .. 'i:' .. id,
        'status', 'at', 'attempt', 'fence', 'base', 'created', 'started', 'deadline', 'version')
      if h and h[1] == 'IN_PROGRESS' and h[4]:match(':(.*)$') == worker .. ':' .. number then
        answer(i, row[1], id, h[4], h, h[5])
      end
    end
  end
end
