-- Take a log back whose stream is there though meta, which was evicted, does not know it: sealed, before all others.
-- KEYS: meta, stream
-- ARGV: log
-- Returns 1 where that was done
local is_known = known(KEYS[1])
if is_known and log_of(KEYS[1], ARGV[1]) then return 0 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 0 end
local stop, count, cut = next_commit(KEYS[2], '-', '+')
if not stop then
  if redis.call('XLEN', KEYS[2]) == 0 then redis.call('UNLINK', KEYS[2]) end
  return 0
end
local last, before, size, from = nil, nil, nil, '+'
while not last do
  local entry = redis.call('XREVRANGE', KEYS[2], from, '-', 'COUNT', 1)[1]
  local _
  last, _, before, size = commit_of(entry)
  from = '(' .. entry[1]
end
local id, logs = ARGV[1], redis.call('HGET', KEYS[1], 'logs')
redis.call('HSET', KEYS[1], 'version', VERSION, 'logs', logs and logs ~= '' and id .. ' ' .. logs or id,
  id .. ':oldest', text(stop - count), id .. ':end', text(last), id .. ':put', text(before + size),
  id .. ':cut', text(cut), id .. ':sealed', '1')
return 1
