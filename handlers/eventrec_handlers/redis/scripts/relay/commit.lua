-- One step of a stage, whole or not at all: its place, output, state, deadlines, views.
-- KEYS: lease, meta, stream and at of the log that was read (the lease again: none was), subs, stage at, state, due,
--   meta of the outlet, the stream that the caller takes for its current one, the one that it would begin;
--   then those of views, then those of what was seen
-- ARGV: token, subscription, mark of the commit, log or '', start, end, ids of the two streams of the outlet,
--   most records, most bytes of the outlet (0: any), changes, then count, content, … of what goes out
--   changes (msgpack): {state: key, value, …}, {state that goes}, {deadlines: ms, {key, …}, …}, {deadlines that go},
--   {views: value or false, ms, …}, {seen: {ms, members}, …}, {tallies: name, by how much, …}
-- Returns {'lost'}, {'gone'}: there is no such log, {'at', place}: elsewhere than `start`, {'log', current one of the
--   outlet}, {'full'}; else what `settle` does, and what was lost before: 'state', 'due'
local token, subscription, log = ARGV[1], ARGV[2], ARGV[4]
local meta, stream, at, subs, places = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local state, due, outlet = KEYS[7], KEYS[8], KEYS[9]

if not holds(KEYS[1], token) then return {'lost'} end
if redis.call('HGET', KEYS[1], 'done') == ARGV[3] then return {'ok'} end
known(meta)
expect(subs, 'hash')
expect(places, 'hash')
expect(state, 'hash')
expect(due, 'zset')
local is_new = redis.call('EXISTS', places) == 0
if log ~= '' then
  if not log_of(meta, log) then return {'gone'} end
  expect(stream, 'stream')
  expect(at, 'zset')
  local place = redis.call('HGET', places, log)
  if not place then
    place = text(tonumber(redis.call('ZSCORE', at, subscription) or 0))
  end
  if place ~= ARGV[5] then return {'at', place} end
end
local changes = cmsgpack.unpack(ARGV[11])
local views, seen = changes[5], changes[6]
for i = 1, #views / 2 do expect(KEYS[11 + i], 'string') end
for i = 1, #seen do expect(KEYS[11 + #views / 2 + i], 'zset') end

-- What can fail for want of room, or of order, comes first: what is behind it cannot.
if #ARGV > 11 then
  local is_known = known(outlet)
  local id, out = is_known and current(outlet), KEYS[10]
  if id and id ~= ARGV[7] then return {'log', id} end
  local most_records, most_bytes = tonumber(ARGV[9]), tonumber(ARGV[10])
  if is_known and (most_records > 0 or most_bytes > 0) then
    local records, bytes = totals(outlet)
    if (most_records > 0 and records >= most_records) or (most_bytes > 0 and bytes >= most_bytes) then
      return {'full'}
    end
  end
  if not id then
    id, out = ARGV[8], KEYS[11]
    begin(outlet, id)
  end
  append(outlet, out, id, ARGV, 12, #ARGV)
end
redis.call('HSET', KEYS[1], 'done', ARGV[3])
if log ~= '' then
  redis.call('HSET', places, log, ARGV[6])
  redis.call('ZADD', at, ARGV[6], subscription)
end
redis.call('HSETNX', subs, subscription, text(clock()))

local lost, now = {}, clock()
if redis.call('HSETNX', state, MARK, '') == 1 and not is_new then lost[#lost + 1] = 'state' end
if is_new then
  redis.call('ZADD', due, '+inf', MARK)
elseif not redis.call('ZSCORE', due, MARK) then
  lost[#lost + 1] = 'due'
end
tally(state, changes[7])
local kept, put = {}, changes[1]
for i = 1, #put, 2 do kept[put[i]] = true end
in_chunks('HSET', state, put)
in_chunks('HDEL', state, changes[2])
in_chunks('ZREM', due, changes[2])
local deadlines, scores = changes[3], {}
for i = 1, #deadlines, 2 do
  local at = text(now + deadlines[i])
  for _, key in ipairs(deadlines[i + 1]) do
    if kept[key] or redis.call('HEXISTS', state, key) == 1 then
      scores[#scores + 1] = at
      scores[#scores + 1] = key
    end
  end
end
in_chunks('ZADD', due, scores)
in_chunks('ZREM', due, changes[4])

for i = 1, #views, 2 do
  local key = KEYS[11 + (i + 1) / 2]
  if views[i] then
    redis.call('SET', key, views[i], 'PX', views[i + 1])
  else
    redis.call('DEL', key)
  end
end
for i, each in ipairs(seen) do
  local key, members = KEYS[11 + #views / 2 + i], {}
  for _, member in ipairs(each[2]) do
    members[#members + 1] = text(now)
    members[#members + 1] = member
  end
  in_chunks('ZADD', key, members)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now - each[1]))
  redis.call('PEXPIRE', key, each[1])
end
local settled = log == '' and 'ok' or settle(meta, stream, at, subs, log)
if settled == 'gone' then redis.call('HDEL', places, log) end
return {settled, lost}
