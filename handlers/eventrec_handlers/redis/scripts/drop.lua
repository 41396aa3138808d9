-- Make room: remove the oldest commits of the oldest log that holds any, whether or not they were read; a bounded number.
-- KEYS: meta, the stream of that log
-- ARGV: id of that log, most records, most bytes (0: any), records and bytes that are to fit, how many commits at most
-- Returns {records, bytes} that are gone
local meta, stream, id = KEYS[1], KEYS[2], ARGV[1]
local before = known(meta) and log_of(meta, id)
if not before then return {'0', '0'} end
local records, bytes = totals(meta)
local over_records = tonumber(ARGV[2]) > 0 and records + ARGV[4] - ARGV[2] or 0
local over_bytes = tonumber(ARGV[3]) > 0 and bytes + ARGV[5] - ARGV[3] or 0
if over_records <= 0 and over_bytes <= 0 then return {'0', '0'} end
local from, cut, oldest = '-', before.cut, before.oldest
for _ = 1, tonumber(ARGV[6]) do
  if oldest - before.oldest >= over_records and cut - before.cut >= over_bytes then break end
  local stop, _, bytes_before, size, behind = next_commit(stream, from, text(before.next))
  if not stop then
    oldest = before.next
    break
  end
  oldest, cut, from = stop, bytes_before + size, behind
end
trim(meta, stream, id, oldest)
if oldest > before.oldest then redis.call('HSET', meta, id .. ':dropped', text(oldest)) end
local after = log_of(meta, id)
return {text(after.oldest - before.oldest), text(after.cut - before.cut)}
