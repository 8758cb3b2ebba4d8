[Quadratic residues: row p has a hash in column a if some square leaves the rest a when divided by p
 Found by brute force: a wheel with p teeth is turned by x times x teeth and looked at
 Cells: 0 rows left   1 p   2 a   3 columns left   4 x   5 tries left   6 hit
        7 outer and 8 inner loop   9 wheel   10 flag   11 always zero   12 spare]

>++++++++[-<+++++++>]+<                                                     56 rows; p begins with 1
[->+                                                                        for each p
  [->>+>>>>>>>>>+<<<<<<<<<<<]>>>>>>>>>>>[-<<<<<<<<<<<+>>>>>>>>>>>]<<<<<<<<<[-   for each a below p
    <<[->>>>+>>>>>>>+<<<<<<<<<<<]>>>>>>>>>>>[-<<<<<<<<<<<+>>>>>>>>>>>]<<<<<<<[-   for each x below p
      <<<<[->>>>>>>>+>>>+<<<<<<<<<<<]>>>>>>>>>>>[-<<<<<<<<<<<+>>>>>>>>>>>]  a wheel with p teeth
      <<<<<<<<[->>>+>>>>>+<<<<<<<<]>>>>>>>>[-<<<<<<<<+>>>>>>>>]<<<<<[-      turned x times
        <<<[->>>>+>>>>+<<<<<<<<]>>>>>>>>[-<<<<<<<<+>>>>>>>>]<<<<[-          by x teeth
          >->+<[>-]>                                                        go on by one tooth; if it is through
            [-<<<<<<<<<[->>>>>>>>+>>>+<<<<<<<<<<<]>>>>>>>>>>>[-<<<<<<<<<<<+>>>>>>>>>>>]<]   begin again
      <<<]<]
      <<<<<[->>>>>>>+>>>+<<<<<<<<<<]>>>>>>>>>>[-<<<<<<<<<<+>>>>>>>>>>]<<<<<<<<<<<[->>>>>>>>->>>+<<<<<<<<<<<]>>>>>>>>>>>[-<<<<<<<<<<<+>>>>>>>>>>>]   does it stand at a?
      <<+<[[-]>-<]                                                          no
      >[-<<<<[-]+>>>>]                                                      yes: a hit
    <<<<<<+>]                                                               next x
    <[-]
    >>>>>>+++++[-<+++++++++>]<+                                             wheel = a full stop
    <<<[->>>-----------<<<]>>>.[-]                                          or a hash for a hit: print it
  <<<<<<<+>]                                                                next a
  <[-]>>>>>>>++++++++++.[-]                                                 end of line
<<<<<<<<<]
