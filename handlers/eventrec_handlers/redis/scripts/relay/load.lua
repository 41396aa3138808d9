-- What a holder has saved, and how far it is.
-- KEYS: lease, saved, meta, then at:LOG of each log
-- ARGV: token, subscription, then each log
-- Returns false where the lease is lost; else {log, content, …} and {log, scanned, …}
if not holds(KEYS[1], ARGV[1]) then return false end
known(KEYS[3])
expect(KEYS[2], 'hash')
local scanned = {}
for i = 3, #ARGV do
  expect(KEYS[i + 1], 'zset')
  local score = redis.call('ZSCORE', KEYS[i + 1], ARGV[2])
  if score then
    scanned[#scanned + 1] = ARGV[i]
    scanned[#scanned + 1] = text(tonumber(score))
  end
end
return {redis.call('HGETALL', KEYS[2]), scanned}
