-- Append a batch of a producer, once: the origin moves from `start` to `end`, or nothing happens.
-- KEYS: meta, origins, the log that the caller takes for the current one, the one that it would begin; sets of heartbeats
-- ARGV: ids of these two, origin, start, end, most records, most bytes (0: any), records, bytes,
--       channel, how many messages, messages …, how many heartbeats, number of its set and member …, count, content, …
-- Returns {'ok', log, its end, why a notice or heartbeat failed or ''}, {'fenced', next of the origin or ''},
--         {'log', the current one}, {'full', records, bytes}
local SEEN_MS = 300000
local meta = KEYS[1]
local is_known = known(meta)
local stored = redis.call('HGET', KEYS[2], ARGV[3])
local next = stored and string.match(stored, '^(%d+)')
if stored and not next then stop(KEYS[2] .. ' holds what is not ours') end
if next ~= ARGV[4] then return {'fenced', next or ''} end

local messages = 11
local beats = messages + ARGV[messages] + 1
local commits = beats + 2 * ARGV[beats] + 1
local id, stream, last = '', KEYS[3], 0
if #ARGV >= commits then
  id = is_known and current(meta)
  if id and id ~= ARGV[1] then return {'log', id} end
  local most_records, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
  if is_known and (most_records > 0 or most_bytes > 0) then
    local records, bytes = totals(meta)
    local is_full = (most_records > 0 and records + ARGV[8] > most_records)
      or (most_bytes > 0 and bytes + ARGV[9] > most_bytes)
    if is_full and records > 0 then return {'full', text(records), text(bytes)} end
  end
  if not id then
    id, stream = ARGV[2], KEYS[4]
    begin(meta, id)
  end
  last = append(meta, stream, id, ARGV, commits, #ARGV)
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])

-- All is kept by now. What fails from here on is told, and changes nothing of that.
local failed = ''
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err and failed == '' then failed = answer.err end
end
for i = messages + 1, beats - 1 do try('PUBLISH', ARGV[10], ARGV[i]) end
local now = beats + 1 < commits and clock()
for i = beats + 1, commits - 1, 2 do
  local key = KEYS[4 + ARGV[i]]
  try('ZADD', key, 'GT', now, ARGV[i + 1])
  try('ZREMRANGEBYSCORE', key, '-inf', now - SEEN_MS)
  try('PEXPIRE', key, SEEN_MS)
end
return {'ok', id, text(last), failed}
