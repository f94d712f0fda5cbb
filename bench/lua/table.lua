local words, count = {}, 0
for i = 1, n do
  local key = "k" .. (i * 7919) % 5003
  words[key] = (words[key] or 0) + i
end
local list = {}
for key, value in pairs(words) do list[#list + 1] = { key, value } end
table.sort(list, function(a, b) return a[1] < b[1] end)
for i, pair in ipairs(list) do count = (count * 31 + pair[2] + #pair[1] * i) % 1000000007 end
print(#list, count, table.concat({ list[1][1], list[#list][1] }, " "))
