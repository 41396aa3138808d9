-- The oldest log that holds anything.
-- KEYS: meta
-- Returns its id; '' where there is none
if known(KEYS[1]) then
  for _, id in ipairs(log_ids(KEYS[1])) do
    local log = log_of(KEYS[1], id)
    if log and log.next > log.oldest then return id end
  end
end
return ''
